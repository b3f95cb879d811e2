"""The result of a run: what it reached and cost, and its model, ready to predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwarm.data.settings import LABELS, NUMBERS
from fedwarm.record.reading import Json, Run, read_run, worst_tenth
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from fedwarm.launch.finished import Finished
    from fedwarm.tasks import Task


def _values(entry: Json | None) -> dict[str, float]:
    """The global model's metrics beside accuracy, by name, of a round's entry or the final one."""
    found = ((entry or {}).get("metrics") or {}).items()
    return {name: told["value"] if isinstance(told, dict) else told for name, told in found}


class Result:
    """A run's folder, read; models and plots are made when they are first asked for.

    Args:
        folder: the run folder.

    Attributes:
        folder: its absolute path.
        run: the record `results.json` as `fedwarm.record.run.Run`, with all that has no attribute here.
        document: the same as JSON.

    Raises:
        SettingError: the folder holds no run, or one that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.run: Run = read_run(self.folder)
        self.document: Json = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        reached = "" if self.accuracy is None else f", accuracy {self.accuracy:.4f}"
        state = "" if self.complete else ", unfinished"
        return f"<Result of {self.method}, seed {self.seed}, {len(self.history)} rounds{reached}{state}, in {self.folder}>"

    # What was run

    @property
    def method(self) -> str:
        """The method's name."""
        return self.run.method

    @property
    def seed(self) -> int:
        """The seed that all random draws derive from."""
        return self.run.seed

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that were in force, by key."""
        return dict(self.run.settings)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; a prediction c means `classes[c]`."""
        return list(self.run.classes)

    @property
    def complete(self) -> bool:
        """Whether the run reached its end."""
        return self.run.complete

    # What it reached and cost

    @property
    def accuracy(self) -> float | None:
        """The global model's last accuracy over all test examples, 0 to 1; None where there is no global model."""
        return self.run.accuracy

    @property
    def client_accuracies(self) -> list[float | None]:
        """The global model's last accuracy on each client's test examples; None of a client that was not measured."""
        return self.run.last("clients")

    @property
    def personal_accuracies(self) -> list[float | None]:
        """The last accuracy of each client's own model; None where there is none."""
        return self.run.last("personal")

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every measure that the run has, by name.

        `accuracy` and the task's other metrics (`auroc`, `mae`, ..) are of the global model; `worst-tenth` is its mean accuracy
        on the tenth of the clients where it is lowest; `personal` and `personal-worst` are of the clients' own models.
        """
        run = self.run
        found = {
            "accuracy": run.accuracy, **_values(self.document["final"].get("global")), "worst-tenth": run.worst_tenth,
            "personal": run.personal_mean, "personal-worst": run.personal_worst, "epsilon": run.epsilon, **run.bit_widths,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    @property
    def history(self) -> list[Json]:
        """One row a round, ready for `pandas.DataFrame`: `round`, the measures by name, `train-loss`, bytes and seconds.

        A measure that a round did not take is None. Bytes are summed over the clients: `bytes-up` from, `bytes-down` to them.
        """
        return [
            {
                "round": r.number, "accuracy": r.accuracy, "worst-tenth": worst_tenth(r.clients), "personal": r.personal_mean,
                "train-loss": r.train_loss, "bytes-up": sum(r.up), "bytes-down": sum(r.down), "seconds": r.seconds,
                "failures": len(r.failures), **_values(entry.get("global")),
            }
            for r, entry in zip(self.run.rounds, self.document["rounds"], strict=True)
        ]  # fmt: skip

    @property
    def ledger(self) -> list[Json]:
        """One row an exchange with a client: round, stage, client, bytes both ways, seconds, and why a reply was left out."""
        return [dict(entry) for entry in self.run.ledger]

    @property
    def privacy(self) -> Json | None:
        """Epsilon, delta, and all that they are stated for; None of a run that is not private."""
        return self.run.privacy

    @property
    def notes(self) -> list[str]:
        """What the run says about itself, e.g. why it stopped early."""
        return list(self.run.notes)

    @property
    def report(self) -> Path:
        """The run's page, written anew: one HTML file without a script or a link to elsewhere."""
        from fedwarm.report.page import make_report

        return make_report([self.folder])

    # Its models

    @cached_property
    def _last(self) -> Finished:
        from fedwarm.launch.finished import finished

        return finished(self.run)

    @property
    def model(self) -> nn.Module:
        """The last global model, on the CPU, in evaluation mode.

        Raises:
            SettingError: the run keeps no one global model.
        """
        return self._last.model.eval()

    @cached_property
    def best_model(self) -> nn.Module:
        """The global model of the best round by the setting `watch`, on the CPU, in evaluation mode.

        Raises:
            SettingError: the run keeps none.
        """
        from fedwarm.launch.finished import BEST, finished

        return finished(self.run, BEST).model.eval()

    def personal_model(self, client: int) -> nn.Module:
        """A client's own model, where clients keep their state in the run folder, as they do on the local engine.

        Args:
            client: its number, from 0.

        Raises:
            SettingError: there is none.
        """
        from fedwarm.launch.finished import personal

        return personal(self.run, client).model.eval()

    @cached_property
    def _task(self) -> Task:
        from fedwarm.launch.finished import task_of

        return task_of(self.run)

    def outputs(self, inputs: Tensor | Sequence[Any] | Any, model: nn.Module | None = None, *, scaled: bool = False) -> Tensor:
        """The model's outputs for examples, on the CPU: logits (n, classes), numbers (n, k), or logits (n, T, tokens).

        Args:
            inputs: a tensor (n, ...): uint8 (n, 3, size, size) for images, a table's columns as in its data set; or images of
                any size as arrays (n, height, width[, 3]) of uint8, PIL images, or paths of files, which are scaled to the
                model's size.
            model: another model than the last global one, e.g. `personal_model(0)`.
            scaled: a table's columns are given as `data.standardise` scaled them.

        Raises:
            SettingError: the run keeps no one global model, or the inputs cannot be used; or it cannot be told here how columns
                were scaled, as the data set is elsewhere or each site scaled its own.
        """
        from fedwarm.api.inputs import as_inputs, like
        from fedwarm.training.evaluate import predict

        model = self.model if model is None else model
        form, background = self.run.inputs, str(self.settings["data.background"])
        given = as_inputs(inputs, form.side, background) if form.pictures else like(form, inputs)
        return predict(model, given if scaled or not form.columns else self._scaled(given), task=self._task)

    def _scaled(self, rows: Tensor) -> Tensor:
        """A table's rows as the model takes them."""
        from fedwarm.launch.columns import scale_of_run

        scale, why = scale_of_run(self.run)
        if why:
            raise SettingError(f"{why}; give them so, and say scaled=True")
        return rows if scale is None else scale.of(rows)

    def probabilities(
        self, inputs: Tensor | Sequence[Any] | Any, model: nn.Module | None = None, *, scaled: bool = False
    ) -> Tensor:
        """Probabilities of classes (n, classes), of labels (n, labels) or of tokens (n, T, tokens), as of `outputs`.

        Raises:
            SettingError: as of `outputs`; or the task predicts numbers, or nothing.
        """
        self._answering()
        if self._task.targets == NUMBERS:
            raise SettingError(f"task = {self.settings['task']!r} predicts numbers, which have no probabilities; use `predict`")
        return self._task.predicted(self.outputs(inputs, model, scaled=scaled))

    def predict(self, inputs: Tensor | Sequence[Any] | Any, model: nn.Module | None = None, *, scaled: bool = False) -> Tensor:
        """Predictions for examples, by the run's task; arguments and errors as of `outputs`.

        Returns:
            classes: indices into `classes`, int64 (n,); labels: whether each is there, bool (n, labels); numbers: float32 (n,) or
            (n, k); tokens: the next one at each place, int64 (n, T).

        Raises:
            SettingError: as of `outputs`; or the task predicts nothing.
        """
        self._answering()
        outputs = self.outputs(inputs, model, scaled=scaled)
        if self._task.targets == NUMBERS:
            return self._task.predicted(outputs)
        return outputs > 0 if self._task.targets == LABELS else outputs.argmax(-1)

    def _answering(self) -> None:
        if not self._task.answers:
            raise SettingError(f"task = {self.settings['task']!r} gives outputs that predict nothing; use `outputs`")

    # Its plots

    def plots(self) -> dict[str, Figure]:
        """Charts as matplotlib figures by name, those that the run has numbers for.

        `rounds`: accuracy by round, thin lines for single clients. `bytes`: accuracy by bytes uploaded. `clients`: last accuracy
        of each client. Other metrics by round are under their names. A notebook shows a figure that is a cell's last value;
        `figure.savefig("curve.pdf")` writes it.
        """
        from fedwarm.api.charts import charts

        return charts(self.run, self.history, self.document["evaluation"].get("metrics") or {})
