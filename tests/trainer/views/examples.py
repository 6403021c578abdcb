"""Runs made by hand, and a reader of HTML pages."""

from html.parser import HTMLParser

from spectra.report import ModelInfo
from trainer import Evaluation, RunReport, TrainSettings
from trainer.report import EvaluationPoint, GrowthEvent, GrowthHistory, LogPoint, RouterHealth, TaskEvaluation
from trainer.run_folder import EVALUATION, HISTORY, PLAN, REPORT

MODEL = ModelInfo(name="model", parameters=1000, fingerprint="sha256:x")


def run_of(**changes):
    """A run of four steps."""
    values = {
        "model": MODEL, "strategy": "combined", "settings": TrainSettings(max_length=16), "examples": 1200, "truncated": 0,
        "steps": 4, "adapter_parameters": 1234, "head_parameters": 20, "seconds": 12.4, "tokens_per_second": 1500.0,
        "peak_memory": 3 * 2**20,
        "curve": tuple(LogPoint(step=step, loss=4.0 / step, learning_rate=1e-3) for step in (1, 2, 3, 4)),
    }  # fmt: skip
    return RunReport(**values | changes)


def evaluation_of(trained, untrained=None, majority=None, **tasks):
    """An evaluation, and its tasks' scores."""
    parts = tuple(
        TaskEvaluation(name=name, examples=count, trained=scores, untrained={}, majority={})
        for name, (count, scores) in tasks.items()
    )
    others = {"untrained": untrained or {}, "majority": majority or {}}
    return Evaluation(tasks=parts, examples=1000, truncated=0, trained=trained, **others)


def health(*shares, support=1.5, site="layers.0.q"):
    return RouterHealth(site=site, shares=shares, entropy=0.5, effective_support=support, dropped=0.0)


HISTORY_OF_TWO = GrowthHistory(
    events=(
        GrowthEvent(step=3, ranks={"layers.0.experts": (2, 2, 3), "layers.1.experts": (2, 3, 2)},
                    shares={"layers.0.experts": (), "layers.1.experts": (0.2, 0.5, 0.3)},
                    saliency={"layers.0.experts": (0.1, 0.2, 0.3), "layers.1.experts": (0.0, 0.0, 0.0)}),
        GrowthEvent(step=6, ranks={"layers.0.experts": (2, 2, 5), "layers.1.experts": (2, 4, 3)},
                    shares={"layers.0.experts": (0.1, 0.2, 0.7), "layers.1.experts": (0.2, 0.6, 0.2)},
                    saliency={"layers.0.experts": (0.1, 0.2, 0.1), "layers.1.experts": (0.0, 0.0, 0.0)}),
    )
)  # fmt: skip
POINTS = EvaluationPoint(step=2, loss=1.5), EvaluationPoint(step=4, loss=1.75)


def write_run(folder, plan, report=None, evaluation=None, history=None):
    """A run's folder as far as it is looked at."""
    plan.save(folder / PLAN)
    (report or run_of()).save(folder / REPORT)
    if evaluation:
        evaluation.save(folder / EVALUATION)
    if history:
        history.save(folder / HISTORY)
    return folder


VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects what is shown, and fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.headings, self.cells, self.lines, self.heads = [], [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert not found.keys() & {"onclick", "srcset"}
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            self.images.append(found["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        places = {"h1": self.headings, "td": self.cells, "p": self.lines, "th": self.heads}
        if self.open and self.open[-1] in places:
            places[self.open[-1]].append(data)
