"""pbus: a job bus. Producers push with any Redis client; handlers of every kind run the jobs."""

__version__ = "0.1.0"
