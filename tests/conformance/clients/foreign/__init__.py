"""
Other people's clients against one real bus: one program per client, the same steps for all.

``steps`` says what every program does and prints, ``clients`` which programs there are, ``runs`` runs them,
``page`` writes what came out into docs/clients.md. The programs are in ``../programs``.
"""
