"""Package data and entry points; what the tools read is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "pbus/__init__.py").read_text("utf-8"), re.MULTILINE)[1]

OTEL = ["opentelemetry-exporter-otlp-proto-http>=1.36"]  # brings the SDK; earlier ones repeat beyond their timeout

setup(
    name="pbus",
    version=VERSION,
    description="A job bus: push with any Redis client, run by php-fpm, HTTP or Python, nothing lost",
    license="MIT",
    author="pbus maintainers",
    python_requires=">=3.11",
    packages=find_packages(include=["pbus", "pbus.*"]),
    data_files=[
        (f"share/man/man{section}", sorted(str(page.relative_to(ROOT)) for page in ROOT.glob(f"man/man{section}/*")))
        for section in (1, 5)
    ],
    package_data={"pbus": ["py.typed", "storage/lua/*.lua", "storage/sql/*.sql"]},
    install_requires=[
        "apsw>=3.51.3",  # brings a current SQLite; older ones can corrupt a WAL under this load
        "click>=8.1",
        "gevent>=24.2",
        "msgpack>=1.0.5",
        "prometheus_client>=0.21",
        "psutil>=5.9",
        "redis[hiredis]>=8",  # earlier ones name differently what the driver tells them
        "setproctitle>=1.3",
        "structlog>=23.2",
    ],
    extras_require={
        "bench": [  # the other queues, measured beside pbus, and what draws the curves
            "celery[redis]>=5.5",
            "dramatiq[redis]>=2",
            "huey>=3",
            "matplotlib>=3.9",
            "rq>=2.6",
            "taskiq>=0.12",
            "taskiq-redis>=1.1",
            "uvloop>=0.21",
        ],
        "otel": OTEL,
        "test": [
            *OTEL,
            "hypothesis>=6.100",
            "PyYAML>=6.0",  # the manifests of contrib/ are read by tests only
            "import-linter>=2.0",
            "mypy>=1.11",
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "ruff>=0.6",
        ],
    },
    entry_points={
        "console_scripts": ["pbus = pbus.cli.main:main"],
        "pbus.storage": [
            "sqlite = pbus.storage.sqlite:SqliteDriver",
            "redis = pbus.storage.redis_streams:RedisStreamsDriver",
            "redis+unix = pbus.storage.redis_streams:RedisStreamsDriver",
        ],
    },
)
