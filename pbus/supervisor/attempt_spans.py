"""
Spans of the attempts of one child: begun at the claim, told at the end.

    claim --> claimed: which have spans, their trace contexts --> handler gets it --> ended: told to the pump

Rule: a job is not held up and not failed by it, whatever happens here. Whether there is a span is decided once, at the
claim; what came from elsewhere without one (a consumer that changed its delivery child) has none.
"""

from __future__ import annotations

from collections.abc import Iterable

from pbus.core.job import Delivery, Settlement
from pbus.core.outcome import Outcome
from pbus.core.span import Sampler, context_of, has_span, processed
from pbus.supervisor.child import Child
from pbus.telemetry.spans import SpanPlan, SpanPump, open_exporter


class AttemptSpans:
    """
    One per child. Its users: whoever claims and whoever settles.

    Args:
        pump: Where spans go.
        sampler: Which jobs have any.
    """

    def __init__(self, pump: SpanPump, sampler: Sampler) -> None:
        self.pump = pump
        self.sampler = sampler

    def claimed(self, deliveries: Iterable[Delivery]) -> None:
        """These will be run: their handlers get the context of the attempt."""
        trace_of = self.sampler.trace
        for each in deliveries:
            try:
                where = trace_of(each.traceparent, each.id)
                if where is not None:
                    each.span = context_of(each, where[0])
            except Exception:  # noqa: BLE001 - a bug here is a missing span
                self.pump.lost()

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement, ended_s: float) -> None:
        """This attempt is over since *ended_s* (unix seconds), and the store has it."""
        if not delivery.span or not has_span(outcome):
            return
        try:
            begun_s = ended_s - outcome.run_s if outcome.run_s else delivery.claimed_s or ended_s
            self.pump.tell(processed(delivery, outcome, settlement, begun_s, ended_s))
        except Exception:  # noqa: BLE001 - a bug here is a missing span
            self.pump.lost()


def make_pump(child: Child, plan: SpanPlan) -> SpanPump:
    """The pump of *child*, open; who calls this runs it in a greenlet."""
    pump = SpanPump(
        lambda: open_exporter(plan, f"{child.owner.node}/{child.spec.role}.{child.index}"), plan.timeout_s, child.clock,
        lambda exported, dropped: child.tell("spans", exported=exported, dropped=dict(dropped)),
        lambda text: child.problem("otel", text),
    )
    pump.open()
    return pump
