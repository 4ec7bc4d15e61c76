"""Words for the ten styles: the text encoder's training prompts, and the held-out ones.

A prompt is a template filled with a phrase and, often, a subject. Held-out templates wrap known
phrases in sentences never trained on; held-out phrases put known words for a style together in new
ways. The encoder starts from nothing, so a style word it never met means nothing to it:
`NEVER_TRAINED` shows what happens then.
"""

from collections.abc import Iterator, Sequence

from ....common.prompt.syntax import GALLERY

PHRASES: dict[str, tuple[str, ...]] = dict(
    zip(
        GALLERY,
        (
            (
                "an oil painting",
                "oil painting",
                "oil on canvas",
                "thick oil paint",
                "an old master oil painting",
                "impasto oil paint",
                "painted in oils",
                "a baroque oil portrait",
                "heavy brush strokes of oil",
                "a canvas in oils",
                "renaissance oil painting",
                "rich oil colours on canvas",
            ),
            (
                "a watercolor painting",
                "watercolor",
                "watercolour painting",
                "a watercolour wash",
                "aquarelle",
                "a soft watercolor",
                "pale watercolour on paper",
                "wet watercolor washes",
                "a delicate aquarelle",
                "watercolor illustration",
                "light washes of watercolour",
                "an aquarelle sketch in colour washes",
            ),
            (
                "a pencil sketch",
                "pencil drawing",
                "a graphite drawing",
                "hand drawn in pencil",
                "a pencil sketch on paper",
                "graphite sketch",
                "a charcoal and pencil drawing",
                "black and white pencil",
                "drawn with a soft pencil",
                "line drawing in graphite",
                "a quick pencil study",
                "a sketch in graphite",
            ),
            (
                "neon cyberpunk city",
                "cyberpunk",
                "neon lights at night",
                "a cyberpunk scene with neon glow",
                "glowing neon",
                "futuristic neon city",
                "cyberpunk neon",
                "synthwave neon glow",
                "blade runner style neon night",
                "a neon lit future",
                "electric neon cyberpunk",
                "night city glowing in neon",
            ),
            (
                "anime style",
                "anime",
                "a japanese anime",
                "anime cel shading",
                "manga and anime style",
                "an anime film still",
                "cartoon anime",
                "cel shaded cartoon",
                "anime key visual",
                "studio anime look",
                "a frame of an anime",
                "cartoon cel style",
            ),
            (
                "an HDR photograph",
                "HDR photo",
                "HDR",
                "high dynamic range photograph",
                "tone mapped HDR",
                "a vivid HDR picture",
                "dramatic HDR photography",
                "high dynamic range",
                "an HDR tone mapping",
                "ultra detailed HDR photo",
                "HDR landscape photography",
                "a tone mapped photograph",
            ),
            (
                "impressionist painting",
                "impressionism",
                "an impressionist picture",
                "in the manner of monet",
                "monet",
                "claude monet",
                "french impressionism",
                "impressionist brushwork",
                "like renoir and monet",
                "an impressionist landscape by monet",
                "impressionist light",
                "a plein air impressionist study",
            ),
            (
                "dark fantasy",
                "a dark fantasy scene",
                "grim dark fantasy",
                "gothic fantasy",
                "a gothic horror",
                "dark gothic atmosphere",
                "grimdark",
                "moody dark fantasy art",
                "a haunted gothic tale",
                "dark souls",
                "sinister dark fantasy",
                "a cursed gothic kingdom",
            ),
            (
                "ukiyo-e woodblock print",
                "ukiyo-e",
                "a japanese woodblock print",
                "hokusai",
                "woodblock",
                "a woodcut print by hokusai",
                "ukiyo-e print",
                "hiroshige woodblock print",
                "edo period woodblock",
                "in the manner of hokusai",
                "a traditional woodblock print",
                "japanese woodcut",
            ),
            (
                "pop art",
                "a pop art print",
                "andy warhol",
                "warhol style pop art",
                "pop art silkscreen",
                "a silkscreen by warhol",
                "bright pop art",
                "sixties pop art poster",
                "in the manner of warhol",
                "pop art portrait",
                "warhol screen print",
                "bold pop art colours",
            ),
        ),
        strict=True,
    )
)

HELD_OUT_PHRASES: dict[str, tuple[str, ...]] = dict(
    zip(
        GALLERY,
        (
            (
                "impasto on canvas",
                "a portrait in oils",
                "thick brush strokes on canvas",
                "a renaissance canvas",
            ),
            (
                "an aquarelle painting",
                "soft watercolour washes on paper",
                "a wet watercolour",
                "delicate watercolor",
            ),
            (
                "a drawing in pencil",
                "graphite on paper",
                "a charcoal drawing",
                "soft graphite study",
            ),
            (
                "a futuristic city in neon",
                "synthwave night",
                "electric glow of neon lights",
                "cyberpunk future",
            ),
            ("a manga cartoon", "japanese anime film", "cel shading", "an anime cartoon"),
            (
                "tone mapping",
                "a high dynamic range picture",
                "vivid HDR landscape",
                "dramatic tone mapped photo",
            ),
            (
                "monet brushwork",
                "french impressionist light",
                "in the manner of renoir",
                "an impressionist canvas",
            ),
            ("a haunted dark tale", "gothic kingdom", "grim and sinister", "a moody gothic scene"),
            ("hiroshige", "an edo woodcut", "a print by hokusai", "traditional ukiyo-e"),
            ("a warhol silkscreen", "sixties silkscreen poster", "pop poster", "warhol colours"),
        ),
        strict=True,
    )
)

TEMPLATES = (
    "{phrase}",
    "{phrase}",
    "{phrase} of {subject}",
    "{subject}, {phrase}",
    "{subject} as {phrase}",
    "{subject} in the style of {phrase}",
    "in the style of {phrase}",
    "make it {phrase}",
    "turn this into {phrase}",
    "a picture of {subject}, {phrase}, highly detailed",
    "{phrase}, {subject}",
    "{phrase}, beautiful, 4k",
    "style: {phrase}",
    "{subject} | {phrase}",
    "my {subject} like {phrase}",
    "{phrase} with {subject} in it",
)
HELD_OUT_TEMPLATES = (
    "please render {subject} the way {phrase} would look",
    "what would {phrase} make of {subject}?",
    "{phrase}!!",
    "show me {subject}; {phrase}, please",
    "i want to look like {phrase}",
)
SUBJECTS = (
    "a man",
    "a woman",
    "my face",
    "a portrait",
    "a cat",
    "a dog",
    "a street",
    "a house",
    "a mountain",
    "the sea",
    "a tree",
    "flowers",
    "a city",
    "a car",
    "a cup of coffee",
    "people",
    "a child",
    "a room",
    "a landscape",
    "the sky",
    "an astronaut",
    "a bird",
    "food on a table",
    "a desk",
)
NEVER_TRAINED = (
    "a stained glass window",
    "a mosaic of tiles",
    "pixel art",
    "a photograph",
    "van gogh",
    "a marble statue",
    "infrared",
    "a chalk drawing",
    "cubism",
    "",
    "qwertz",
    "an oil painting in neon colours",
)


def prompts(
    phrases: Sequence[str], templates: Sequence[str], subjects: Sequence[str] = SUBJECTS
) -> Iterator[str]:
    """Fill every template with every phrase; subjects take turns, so each prompt comes once."""
    turn = 0
    for phrase in phrases:
        for template in dict.fromkeys(templates):
            yield template.format(phrase=phrase, subject=subjects[turn % len(subjects)])
            turn += 1


def training_prompts(prompt: str, subjects_each: int = 3) -> list[str]:
    """List a style's training prompts: its phrases in all templates, several subjects."""
    found: dict[str, None] = {prompt: None}
    for shift in range(subjects_each):
        start = 7 * shift % len(SUBJECTS)
        found |= dict.fromkeys(
            prompts(PHRASES[prompt], TEMPLATES, SUBJECTS[start:] + SUBJECTS[:start])
        )
    return list(found)


def held_out_prompts(prompt: str) -> dict[str, list[str]]:
    """List the encoder's test prompts: the gallery, held-out templates, held-out phrases."""
    return {
        "canonical": [prompt],
        "held-out templates": list(prompts(PHRASES[prompt][:4], HELD_OUT_TEMPLATES)),
        "held-out phrases": [
            *HELD_OUT_PHRASES[prompt],
            *prompts(HELD_OUT_PHRASES[prompt], TEMPLATES[2:4]),
        ],
    }
