"""Carry out a run: interleaved rounds, then memory, copies, stages, roofline, contention, together.

The headline comes first and alone; every other pass runs after it and cannot disturb it. A backend
that fails loses the round or the pass it was in, and the report says so. `stop` ends the run
between two answers; what was measured until then is kept and marked as partial.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...checkpoint.find import Checkpoint
from ...system import awake
from ..model.report import (
    Report,
    Round,
)
from ..model.terms import IN_FLIGHT
from .crew import Failed
from .each_alone import each_alone
from .energy import measure_energy
from .heat import thermal_state
from .judging import Gallery, judge, render_fresh
from .machine import conditions
from .requests import Loaded, Run
from .run_state import BenchPlan, RunState, Stopped
from .start import measure_starts
from .sustained import sustain
from .under_load import both_at_once, contend
from .worker import Worker

__all__ = ["BenchPlan", "Runner"]


class Runner:
    """One run of bench over one checkpoint. `report` is complete in itself at every moment."""

    def __init__(
        self,
        plan: BenchPlan,
        checkpoint: Checkpoint,
        save: Callable[[Report], None] = lambda report: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take the plan; see `RunState`. Raises UsageError, ConfigError, WeightsError."""
        self._run = RunState(plan, checkpoint, save, say)
        self._gallery = Gallery()

    @property
    def report(self) -> Report:
        """The report so far."""
        return self._run.report

    def stop(self) -> None:
        """Ask for the end; safe in a signal handler."""
        self._run.stopped = True

    def run(self) -> Report:
        """Run everything and return the report.

        A backend's failure goes into the report; our own mistakes are raised.
        """
        with awake():
            return self._run_all()

    def _run_all(self) -> Report:
        ended, state = "failed", self._run
        try:
            self._rounds()
            judge(state, self._gallery)
            each_alone(state)
            if self._run.plan.together:
                both_at_once(state)
            if self._run.plan.contention:
                contend(state)
            if self._run.plan.drift:
                sustain(state)
            if self._run.plan.energy:
                measure_energy(state)
            if self._run.plan.cold_start:
                measure_starts(state)
            ended = "finished"
        except Stopped:
            ended = "interrupted"
        finally:
            self._run.crew.end()
            self._gallery.close()
            self._run.report.complete = ended == "finished" and not self._run.report.failures
            self._run.report.ended = ended
            self._run.report.conditions.append(conditions())
            self._run.save_now()
        return self._run.report

    def _rounds(self) -> None:
        """The headline: every round, each backend's turns in alternation."""
        plan = self._run.plan
        for number in range(plan.rounds):
            self._run.say(f"round {number + 1} of {plan.rounds}")
            during = f"round {number + 1}"
            with self._run.crew.of(plan.entrants, during) as crew:
                heat = thermal_state()
                records = {
                    label: Round(number, [], [], [], loaded.load_s, heat=heat)
                    for label, (_, loaded) in crew.items()
                }
                for label, (_, loaded) in crew.items():
                    # a process id differs each time and says nothing
                    told = replace(loaded.describe, processes=()).as_dict()
                    self._run.of[label].describe = told | {IN_FLIGHT: str(loaded.depth)}
                for entrant in plan.entrants:
                    if entrant.label not in crew:
                        self._run.of[entrant.label].rounds.append(
                            Round(number, [], [], [], 0.0, self._run.report.failures[-1])
                        )
                try:
                    self._turns(crew, records, during)
                    for label, record in records.items():
                        render_fresh(self._run, self._gallery, crew[label][0], record)
                finally:
                    for label, record in records.items():
                        self._run.of[label].rounds.append(record)
            self._run.save_now()

    def _turns(
        self, crew: Mapping[str, tuple[Worker, Loaded]], records: Mapping[str, Round], during: str
    ) -> None:
        """Measure A B A B, in reverse order in every second round, so that neighbours change."""
        number = min((record.number for record in records.values()), default=0)
        for turn in range(self._run.plan.turns):
            order = list(records)
            for label in order if number % 2 == 0 else order[::-1]:
                record = records[label]
                if record.error:
                    continue
                request = Run(self._run.plan.turn_s, warm=2 if turn == 0 else 1)
                timed = self._run.crew.ask(crew[label][0], request, during)
                if isinstance(timed, Failed):
                    record.error = timed
                    continue
                record.warm_ms += timed.warm_ms
                record.frame_ms += timed.frame_ms
                record.latency_ms += timed.latency_ms
                self._run.of[label].bridge_ms = timed.bridge_ms
