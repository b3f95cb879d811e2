"""The result of a run: what it reached and cost, and its model, ready to predict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwarm.record.reading import Json, Run, read_run, worst_tenth

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from fedwarm.launch.finished import Finished


class Result:
    """A run's folder, read; models and plots are made when they are first asked for.

    Args:
        folder: the run folder.

    Attributes:
        folder: its absolute path.
        run: the record `results.json` as `fedwarm.record.run.Run`, with all that has no attribute here.

    Raises:
        SettingError: the folder holds no run, or one that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.run: Run = read_run(self.folder)

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
        """The last value of every measure that the run has, by name: `accuracy`, `personal`, `worst-tenth`, and the like."""
        run = self.run
        found = {
            "accuracy": run.accuracy, "worst-tenth": run.worst_tenth, "personal": run.personal_mean,
            "personal-worst": run.personal_worst, "epsilon": run.epsilon, **run.bit_widths,
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
                "failures": len(r.failures),
            }
            for r in self.run.rounds
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

    def outputs(self, inputs: Tensor | Sequence[Any] | Any, model: nn.Module | None = None) -> Tensor:
        """What the model gives for examples: logits (n, classes) of a classifier, float32, on the CPU.

        Args:
            inputs: a tensor (n, ...) as the model was trained on: uint8 (n, 3, size, size) for images; or images of any size as
                arrays (n, height, width[, 3]) of uint8, PIL images, or paths of files, which are scaled to the model's size.
            model: another model than the last global one, e.g. `personal_model(0)`.

        Raises:
            SettingError: the run keeps no one global model, or the inputs cannot be used.
        """
        from fedwarm.api.inputs import as_inputs, like
        from fedwarm.training.evaluate import predict

        model = self.model if model is None else model
        form = self.run.inputs
        if not form.pictures:
            return predict(model, like(form, inputs))
        return predict(model, as_inputs(inputs, form.side, str(self.settings["data.background"])))

    def predict(self, inputs: Tensor | Sequence[Any] | Any, model: nn.Module | None = None) -> Tensor:
        """Predictions for examples: indices into `classes`, int64 (n,), of a classifier. Arguments and errors as of `outputs`."""
        return self.outputs(inputs, model).argmax(1)

    # Its plots

    def plots(self) -> dict[str, Figure]:
        """Charts as matplotlib figures by name, those that the run has numbers for: `rounds`, `bytes`, `clients`.

        `rounds`: accuracy by round, thin lines for single clients. `bytes`: accuracy by bytes uploaded. `clients`: last accuracy
        of each client. A notebook shows a figure that is a cell's last value; `figure.savefig("curve.pdf")` writes it.
        """
        from fedwarm.api.charts import charts

        return charts(self.run)
