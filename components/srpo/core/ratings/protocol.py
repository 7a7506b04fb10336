"""What people are asked and what their grades mean: the human evaluation of the paper (arXiv 2509.06942), and pairs.

The words here are what the rating page shows; the page's guide is one key away.
"""

from collections.abc import Sequence

GRADES = ("excellent", "good", "pass", "fail")  # best first
CHOICES = ("a", "tie", "b")  # of a pair: which image is better
MODES = ("grade", "pair")
OVERALL = "overall"

DIMENSIONS: dict[str, dict[str, str]] = {
    "alignment": {
        "title": "Text alignment",
        "question": "How much of the text does the image show?",
        "pair": "Which image follows the text better?",
        "excellent": "More than 90 % of the elements: objects, their number, properties, relations, style.",
        "good": "70 to 90 % of the elements.",
        "pass": "50 to 70 % of the elements.",
        "fail": "Less than half of the elements.",
    },
    "realism": {
        "title": "Realism and artefacts",
        "question": "Does it look true to life, without artefacts?",
        "pair": "Which image looks more real, with fewer artefacts?",
        "excellent": "Light, material and anatomy convince everywhere; no artefact.",
        "good": "One defect at a key point: one grade down for each.",
        "pass": "Two defects at key points.",
        "fail": "Three or more; or plainly artificial: over-smooth, greasy, broken.",
    },
    "detail": {
        "title": "Detail and complexity",
        "question": "Is it rich in clean detail?",
        "pair": "Which image has richer and cleaner detail?",
        "excellent": "Rich, clean detail wherever the eye rests.",
        "good": "One key point lacks detail or is muddled: one grade down for each.",
        "pass": "Two key points lack detail.",
        "fail": "Bare or muddled throughout.",
    },
    "aesthetics": {
        "title": "Aesthetic composition",
        "question": "Would you keep it?",
        "pair": "Which image is the more beautiful?",
        "excellent": "You would keep it as a wallpaper or share it.",
        "good": "Pleasant; composition and colours work.",
        "pass": "Ordinary; something in composition or colours disturbs.",
        "fail": "Unpleasant to look at.",
    },
}
# A question of its own in pairs; in grades it follows from the others by `overall`.
PAIR_OVERALL = {"title": "Overall", "pair": "All in all, which image would you choose?"}


def overall(grades: Sequence[str]) -> str:
    """The paper's overall grade of one image from its grades in every dimension.

    Fail if any dimension failed; Excellent if every one is; Good if at least half are Good or better; else Pass.
    """
    if "fail" in grades:
        return "fail"
    if all(grade == "excellent" for grade in grades):
        return "excellent"
    return "good" if 2 * sum(grade in ("excellent", "good") for grade in grades) >= len(grades) else "pass"


def dimensions_of(mode: str) -> tuple[str, ...]:
    """The dimensions that a rater answers in a mode."""
    return (*DIMENSIONS, OVERALL) if mode == "pair" else tuple(DIMENSIONS)


def answers_of(mode: str) -> tuple[str, ...]:
    """What can be answered in a mode."""
    return CHOICES if mode == "pair" else GRADES
