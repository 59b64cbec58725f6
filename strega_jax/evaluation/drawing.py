"""Pictures of cases: one that cannot be drawn is told and left out, and costs no number."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from strega_jax.evaluation.report import COMPLETE, picture
from strega_jax.evaluation.scoring import Scored
from strega_jax.failures import Failures


def draw_cases(
    cases: Sequence[Scored],
    draw: Callable[[Sequence[Scored]], Figure],
    name: str,
    caption: str,
    failures: Failures,
) -> list[dict[str, str]]:
    """The picture of some cases, as an entry of the report's `pictures`, in a list.

    Where it fails, every case is tried alone: those at fault are left out and told. Empty where nothing can be drawn.

    Args:
        cases: one at least.
        draw: makes the figure, of these cases or of fewer.
        name: of the picture.
        caption: below it.
        failures: where a picture that fails is told, with its file.
    """
    file = failures.folder / "figures" / f"{name}.png"
    try:
        return [picture(draw(cases), name, caption)]
    except Exception as error:
        file.unlink(missing_ok=True)  # an earlier evaluation's
        together = error
    sound: list[Scored] = []
    for case in cases:
        try:
            picture(draw([case]), name, caption)
            sound.append(case)
        except Exception as error:
            failures.add(f"{file}, {case.row['case']}", error, COMPLETE)
    if not sound:
        return []
    if len(sound) == len(cases):
        failures.add(file, together, COMPLETE)
        return []
    return [picture(draw(sound), name, caption)]
