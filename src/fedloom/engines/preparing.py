"""The preparations of an experiment by themselves: what a plan needs to know before it can tell sizes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fedloom.core.query import AnyPreparation
from fedloom.engines.journal import Journal
from fedloom.engines.local_run import QUERY_BLOCK, RoundSettings, dataset_of
from fedloom.engines.prepared_data import PreparedData
from fedloom.engines.process import steady_arithmetic
from fedloom.engines.rounds import Rounds
from fedloom.experiment.listing import Answer
from fedloom.experiment.plan import check_data, prepare_plan, resolve_experiment
from fedloom.experiment.spec import Experiment
from fedloom.runtime.coordinator import initial_state


def answer_preparations(experiment: Experiment, *, base: Path) -> tuple[Answer, ...]:
    """Ask the simulated clients what the preparations of an experiment ask, and train nothing.

    The rounds are those that a run of the experiment begins with, to the byte. Nothing is written.

    Raises:
        DataError: When rows cannot be used.
        RunStopped: When a client could not answer.
    """
    experiment = resolve_experiment(experiment, base=base)
    data = PreparedData(dataset_of(experiment))
    population = check_data(data.dataset)
    journal = Journal(folder=None, every_s=0.0)
    answers: list[Answer] = []
    settings = RoundSettings(workers=1, debug=False, strict=False)
    with steady_arithmetic(), settings.threads(data, journal) as team:
        loop = Rounds(team, journal, ())
        for number in range(len(experiment.prepare)):
            preparation: AnyPreparation = experiment.prepare[number]  # type: ignore[assignment]
            query, state = preparation.query, preparation.query.init(data.schema)
            before = len(journal.records)
            if not query.done(state):
                plan = prepare_plan(experiment, number, data.schema, population)
                state = loop.run(plan, initial_state(plan, records=before), block=QUERY_BLOCK).server
            result = query.result(state)
            answers.append(Answer(result=msgspec.to_builtins(result), records=tuple(journal.records[before:])))
            data.add(preparation.transform(result))
    return tuple(answers)
