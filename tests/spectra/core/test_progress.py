import spectra
from spectra.core.progress import Progress, silent


def test_without_anybody_looking_nothing_is_printed(capsys):
    assert silent(1) is silent(1, 2, "half") is silent(1, total=2, note="half") is None
    assert capsys.readouterr() == ("", "")


def test_any_callable_of_three_can_look(tiny_llama):
    class Looking:
        def __init__(self):
            self.seen = []

        def __call__(self, done, total=None, note=""):
            self.seen.append((done, total, note))

    looking: Progress = Looking()
    report = spectra.analyze(tiny_llama, progress=looking)
    assert [(done, total) for done, total, _ in looking.seen] == [
        (at, len(report.sites)) for at in range(1, 1 + len(report.sites))
    ]
    assert {note for _, _, note in looking.seen} == {site.name for site in report.sites}
