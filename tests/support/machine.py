"""What measurements need to know about the machine; ``pbus bench`` needs it too."""

from __future__ import annotations

from pbus.bench.machine import Echo, Fsync, Processor, cpu_s, fsync_s, fsyncs

__all__ = ["Echo", "Fsync", "Processor", "cpu_s", "fsync_s", "fsyncs"]
