"""The mock texts: (category, split, texts) of each label."""

TEXTS = (
    (
        "kitchen",
        "train",
        (
            "Kettle of brushed steel, 1.7 litres, switches itself off.",
            "Glass kettle that shows the water boil.",
            "Travel kettle for two cups and any socket.",
            "Stove kettle that whistles when it is time for tea.",
        ),
    ),
    (
        "kitchen",
        "train",
        (
            "Frying pan of cast iron for a lifetime of steaks.",
            "Coated pan, 28 cm, eggs slide off by themselves.",
            "Deep pan with a lid for stews.",
            "Small pan for a single pancake.",
            "Copper pan that heats evenly and quickly.",
            "Wok pan with a wooden handle.",
        ),
    ),
    (
        "garden",
        "train",
        (
            "Rake with twelve teeth for leaves.",
            "Folding rake that fits into a drawer.",
            "Steel rake for gravel and soil.",
            "Light rake of bamboo for the lawn.",
        ),
    ),
    (
        "music",
        "train",
        (
            "Guitar with nylon strings for beginners.",
            "Electric guitar in sunburst with two pickups.",
            "Travel guitar that can be folded.",
            "Bass guitar with four strings and a warm sound.",
            "Twelve-string guitar for full chords.",
        ),
    ),
    (
        "garden",
        "validation",
        (
            "Hose of 20 metres with three nozzles.",
            "Flat hose on a reel for balconies.",
            "Soaker hose for beds in summer.",
            "Hose that stretches when water comes.",
        ),
    ),
    (
        "music",
        "validation",
        (
            "Drum with a head of calf skin.",
            "Snare drum of maple, bright and dry.",
            "Drum for children, with two sticks.",
            "Frame drum that hangs from the shoulder.",
            "Bass drum with a felt beater.",
            "Electronic drum that neighbours do not hear.",
        ),
    ),
    (
        "kitchen",
        "validation",
        (
            "Knife for bread with a wavy edge.",
            "Chef's knife of folded steel.",
            "Small knife for fruit, in four colours.",
            "Ceramic knife that stays sharp for years.",
            "Knife for cheese with two points.",
            "Filleting knife with a thin blade.",
        ),
    ),
)
