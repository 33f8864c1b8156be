"""How the questions about scenes are worded: plain English, ASCII, at least six wordings a task."""

from __future__ import annotations

_EXTREMES = (
    "What is at the far {0}?",
    "Which thing is at the far {0}?",
    "What is the thing at the far {0}?",
    "Name the thing at the far {0}.",
    "What do you see at the far {0}?",
    "Which thing is {1}?",
)

WORDINGS: dict[str, tuple[str, ...]] = {
    "naming": (
        "What is this?",
        "What is in the picture?",
        "What is shown here?",
        "What can you see?",
        "Name the thing in the picture.",
        "What does the picture show?",
        "What is in this image?",
    ),
    "naming_left": tuple(w.format("left", "furthest to the left") for w in _EXTREMES),
    "naming_right": tuple(w.format("right", "furthest to the right") for w in _EXTREMES),
    "naming_top": tuple(w.replace("far {0}", "{0}").format("top", "the highest") for w in _EXTREMES),
    "naming_bottom": tuple(w.replace("far {0}", "{0}").format("bottom", "the lowest") for w in _EXTREMES),
    "listing": (
        "What things are there?",
        "Which things are in the picture?",
        "List the things in the picture.",
        "Name all the things you see.",
        "What kinds of things are here?",
        "List everything in the image.",
        "Which kinds of things can you see?",
    ),
    "counting": (
        "How many {things} are there?",
        "How many {things} are in the picture?",
        "Count the {things}.",
        "How many {things} do you see?",
        "What is the number of {things}?",
        "How many {things} can you count?",
        "Tell me how many {things} there are.",
    ),
    "pointing": (
        "Point to the {things}.",
        "Point at the {things}.",
        "Point to all the {things}.",
        "Where are the {things}?",
        "Show me the {things}.",
        "Point to every {thing}.",
        "Mark each {thing}.",
        "Find the {things}.",
    ),
    "pointing_one": (
        "Point to the {thing}.",
        "Point at the {thing}.",
        "Where is the {thing}?",
        "Show me the {thing}.",
        "Find the {thing}.",
        "Mark the {thing}.",
    ),
    "position": (
        "Where is the {first} relative to the {second}?",
        "Where is the {first} compared with the {second}?",
        "Seen from the {second}, where is the {first}?",
        "On which side of the {second} is the {first}?",
        "In which direction is the {first} from the {second}?",
        "What is the position of the {first} relative to the {second}?",
    ),
    "position_across": (
        "Is the {first} left or right of the {second}?",
        "Is the {first} to the left or to the right of the {second}?",
        "Left or right: where is the {first} relative to the {second}?",
    ),
    "position_along": (
        "Is the {first} above or below the {second}?",
        "Is the {first} higher or lower than the {second}: above or below?",
        "Above or below: where is the {first} relative to the {second}?",
    ),
    "reading": (
        "What does the sign say?",
        "Read the sign.",
        "What word is on the sign?",
        "Which word is written here?",
        "What is written on the sign?",
        "What is the word in the picture?",
    ),
    "describing": (
        "Describe the picture.",
        "Describe this image.",
        "Caption the picture.",
        "Write a caption for this image.",
        "Tell me about the picture.",
        "Give a short description of the image.",
    ),
}
