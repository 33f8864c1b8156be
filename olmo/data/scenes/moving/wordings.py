"""How the questions about clips are worded: plain English, ASCII."""

from __future__ import annotations

WORDINGS: dict[str, tuple[str, ...]] = {
    "action": (
        "What does the {thing} do?",
        "What is the {thing} doing?",
        "What happens to the {thing}?",
        "How does the {thing} change?",
        "Say what the {thing} does.",
        "Which action does the {thing} take?",
    ),
    "actor": (
        "Which thing {phrase}?",
        "What {phrase}?",
        "Name the thing that {phrase}.",
        "Which of the things {phrase}?",
    ),
    "order_first": (
        "What happens first?",
        "What is the first thing that happens?",
        "What happens at the beginning?",
        "Which event comes first?",
    ),
    "order_last": (
        "What happens last?",
        "What is the last thing that happens?",
        "What happens in the end?",
        "Which event comes last?",
    ),
    "order_relation": (
        "Does the {first} {first_verb} before or after the {second} {second_phrase}?",
        "When does the {first} {first_verb}, before or after the {second} {second_phrase}?",
        "The {first} {first_phrase}. Is that before or after the {second} {second_phrase}?",
    ),
    "order_pair": (
        "Which one acts first, the {first} or the {second}?",
        "Is it the {first} or the {second} that acts first?",
        "Which comes first, the {first} or the {second}?",
    ),
    "counting_start": (
        "How many {things} are there at the start?",
        "How many {things} do you see at first?",
        "Count the {things} at the start.",
    ),
    "counting_end": (
        "How many {things} are there at the end?",
        "How many {things} are left in the end?",
        "Count the {things} at the end.",
    ),
    "when": (
        "When does the {thing} {verb}, in the first half or in the second half?",
        "In which half of the clip does the {thing} {verb}?",
        "Does the {thing} {verb} in the first half or in the second half?",
    ),
    "describing": (
        "Describe the clip.",
        "Describe what happens.",
        "What happens in the clip?",
        "Caption the clip.",
        "Tell me what happens, in order.",
    ),
    "summary": (
        "Sum up the clip.",
        "Give a short summary of the clip.",
        "Summarise what happens.",
        "What is the clip about, in short?",
    ),
}
