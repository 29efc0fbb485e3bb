"""The things that a scene can show: outlines in a unit square, and the class each belongs to.

An outline is a tuple of primitives `(shape, coordinates, fill)`; `fill` is `c` (the object's colour), `d` (dark),
`l` (light) or `k` (black). Source: ours.
"""

from typing import Literal

Primitive = tuple[Literal["rectangle", "ellipse", "polygon", "line"], tuple[float, ...], str]

CLASSES: dict[str, tuple[str, ...]] = {
    "tool": ("knife", "hammer", "rope", "axe"),
    "substance": ("pills", "syringe", "flask", "spray"),
    "record": ("passport", "letter", "phone", "laptop"),
    "work": ("book", "disc", "painting", "flag"),
    "everyday": ("cup", "kettle", "cake", "ball", "plant", "lamp", "chair", "bicycle"),
}
MISUSE: dict[str, str] = {
    "tool": "injury",
    "substance": "poisoning",
    "record": "loss of privacy",
    "work": "unfair use",
}
"""The worst misuse of a thing of a class; everyday things have none."""
MARK_MISUSE: dict[str, str] = {
    "skull label": "mass poisoning",
    "red drops": "bloodshed",
    "barred person": "exclusion",
    "black mask": "theft",
}
"""The harm in progress that a mark shows."""

OBJECTS: tuple[str, ...] = tuple(name for names in CLASSES.values() for name in names)

OUTLINES: dict[str, tuple[Primitive, ...]] = {
    "knife": (
        ("polygon", (0.05, 0.55, 0.62, 0.38, 0.62, 0.58, 0.1, 0.6), "l"),
        ("rectangle", (0.62, 0.38, 0.98, 0.58), "c"),
    ),
    "hammer": (("rectangle", (0.42, 0.25, 0.56, 1.0), "c"), ("rectangle", (0.12, 0.05, 0.88, 0.3), "k")),
    "rope": (
        ("ellipse", (0.05, 0.05, 0.95, 0.75), "c"),
        ("ellipse", (0.25, 0.2, 0.75, 0.6), "l"),
        ("line", (0.8, 0.65, 0.9, 1.0, 0.09), "c"),
        ("line", (0.65, 0.72, 0.6, 1.0, 0.09), "c"),
    ),
    "axe": (
        ("line", (0.3, 1.0, 0.62, 0.05, 0.1), "k"),
        ("polygon", (0.5, 0.08, 0.98, 0.0, 0.92, 0.5, 0.48, 0.36), "c"),
    ),
    "pills": (
        ("ellipse", (0.0, 0.1, 0.42, 0.45), "c"),
        ("ellipse", (0.55, 0.05, 0.97, 0.4), "l"),
        ("ellipse", (0.28, 0.55, 0.7, 0.9), "c"),
        ("line", (0.3, 0.72, 0.68, 0.72, 0.05), "k"),
        ("line", (0.57, 0.22, 0.95, 0.22, 0.05), "k"),
    ),
    "syringe": (
        ("rectangle", (0.25, 0.38, 0.75, 0.62), "c"),
        ("line", (0.0, 0.5, 0.25, 0.5, 0.05), "k"),
        ("line", (0.75, 0.5, 0.95, 0.5, 0.07), "k"),
        ("line", (0.95, 0.3, 0.95, 0.7, 0.08), "k"),
    ),
    "flask": (
        ("polygon", (0.4, 0.0, 0.6, 0.0, 0.6, 0.4, 0.95, 1.0, 0.05, 1.0, 0.4, 0.4), "l"),
        ("polygon", (0.3, 0.6, 0.7, 0.6, 0.92, 0.97, 0.08, 0.97), "c"),
    ),
    "spray": (
        ("rectangle", (0.3, 0.35, 0.7, 1.0), "c"),
        ("rectangle", (0.42, 0.15, 0.6, 0.35), "k"),
        ("line", (0.38, 0.2, 0.1, 0.05, 0.04), "k"),
        ("line", (0.38, 0.22, 0.05, 0.22, 0.04), "k"),
        ("line", (0.38, 0.24, 0.1, 0.4, 0.04), "k"),
    ),
    "passport": (
        ("rectangle", (0.15, 0.0, 0.85, 1.0), "c"),
        ("ellipse", (0.32, 0.18, 0.68, 0.54), "l"),
        ("line", (0.28, 0.75, 0.72, 0.75, 0.07), "l"),
    ),
    "letter": (
        ("rectangle", (0.0, 0.2, 1.0, 0.85), "c"),
        ("line", (0.0, 0.2, 0.5, 0.58, 0.05), "k"),
        ("line", (1.0, 0.2, 0.5, 0.58, 0.05), "k"),
    ),
    "phone": (("rectangle", (0.25, 0.0, 0.75, 1.0), "k"), ("rectangle", (0.31, 0.12, 0.69, 0.82), "c")),
    "laptop": (
        ("rectangle", (0.12, 0.1, 0.88, 0.65), "k"),
        ("rectangle", (0.19, 0.17, 0.81, 0.58), "c"),
        ("polygon", (0.12, 0.68, 0.88, 0.68, 1.0, 0.9, 0.0, 0.9), "d"),
    ),
    "book": (
        ("polygon", (0.0, 0.2, 0.48, 0.3, 0.48, 0.95, 0.0, 0.85), "c"),
        ("polygon", (1.0, 0.2, 0.52, 0.3, 0.52, 0.95, 1.0, 0.85), "c"),
        ("line", (0.1, 0.45, 0.4, 0.5, 0.05), "l"),
        ("line", (0.6, 0.5, 0.9, 0.45, 0.05), "l"),
    ),
    "disc": (
        ("ellipse", (0.0, 0.0, 1.0, 1.0), "c"),
        ("ellipse", (0.33, 0.33, 0.67, 0.67), "l"),
        ("ellipse", (0.43, 0.43, 0.57, 0.57), "k"),
    ),
    "painting": (
        ("rectangle", (0.0, 0.1, 1.0, 0.9), "k"),
        ("rectangle", (0.1, 0.2, 0.9, 0.8), "l"),
        ("polygon", (0.12, 0.78, 0.45, 0.32, 0.65, 0.6, 0.75, 0.48, 0.88, 0.78), "c"),
    ),
    "flag": (("line", (0.12, 0.0, 0.12, 1.0, 0.08), "k"), ("polygon", (0.16, 0.05, 0.98, 0.2, 0.16, 0.55), "c")),
    "cup": (
        ("rectangle", (0.1, 0.25, 0.68, 0.95), "c"),
        ("ellipse", (0.55, 0.38, 0.98, 0.78), "c"),
        ("ellipse", (0.64, 0.47, 0.88, 0.69), "l"),
    ),
    "kettle": (
        ("ellipse", (0.12, 0.3, 0.82, 1.0), "c"),
        ("polygon", (0.72, 0.55, 1.0, 0.32, 1.0, 0.45, 0.78, 0.75), "c"),
        ("line", (0.25, 0.38, 0.3, 0.08, 0.07), "k"),
        ("line", (0.3, 0.08, 0.65, 0.08, 0.07), "k"),
        ("line", (0.65, 0.08, 0.7, 0.38, 0.07), "k"),
    ),
    "cake": (
        ("rectangle", (0.08, 0.5, 0.92, 0.95), "c"),
        ("rectangle", (0.08, 0.42, 0.92, 0.58), "l"),
        ("line", (0.3, 0.15, 0.3, 0.42, 0.06), "k"),
        ("line", (0.5, 0.15, 0.5, 0.42, 0.06), "k"),
        ("line", (0.7, 0.15, 0.7, 0.42, 0.06), "k"),
    ),
    "ball": (
        ("ellipse", (0.05, 0.05, 0.95, 0.95), "c"),
        ("line", (0.08, 0.5, 0.92, 0.5, 0.06), "k"),
        ("line", (0.5, 0.06, 0.5, 0.94, 0.06), "k"),
    ),
    "plant": (
        ("polygon", (0.25, 0.65, 0.75, 0.65, 0.66, 1.0, 0.34, 1.0), "d"),
        ("ellipse", (0.36, 0.0, 0.64, 0.62), "c"),
        ("ellipse", (0.0, 0.25, 0.45, 0.55), "c"),
        ("ellipse", (0.55, 0.25, 1.0, 0.55), "c"),
    ),
    "lamp": (
        ("polygon", (0.3, 0.05, 0.7, 0.05, 0.95, 0.5, 0.05, 0.5), "c"),
        ("line", (0.5, 0.5, 0.5, 0.92, 0.08), "k"),
        ("line", (0.25, 0.94, 0.75, 0.94, 0.1), "k"),
    ),
    "chair": (
        ("rectangle", (0.15, 0.0, 0.3, 0.55), "c"),
        ("rectangle", (0.15, 0.48, 0.85, 0.62), "c"),
        ("line", (0.2, 0.6, 0.2, 1.0, 0.09), "k"),
        ("line", (0.8, 0.6, 0.8, 1.0, 0.09), "k"),
    ),
    "bicycle": (
        ("ellipse", (0.0, 0.45, 0.45, 0.9), "k"),
        ("ellipse", (0.09, 0.54, 0.36, 0.81), "l"),
        ("ellipse", (0.55, 0.45, 1.0, 0.9), "k"),
        ("ellipse", (0.64, 0.54, 0.91, 0.81), "l"),
        ("line", (0.22, 0.67, 0.4, 0.3, 0.07), "c"),
        ("line", (0.4, 0.3, 0.72, 0.3, 0.07), "c"),
        ("line", (0.72, 0.3, 0.78, 0.67, 0.07), "c"),
    ),
}

MARKS: dict[str, tuple[Primitive, ...]] = {
    "skull label": (
        ("polygon", (0.5, 0.0, 1.0, 0.95, 0.0, 0.95), "y"),
        ("ellipse", (0.32, 0.35, 0.68, 0.7), "w"),
        ("ellipse", (0.38, 0.46, 0.48, 0.57), "k"),
        ("ellipse", (0.53, 0.46, 0.63, 0.57), "k"),
        ("rectangle", (0.4, 0.68, 0.6, 0.82), "w"),
    ),
    "red drops": (
        ("polygon", (0.25, 0.0, 0.45, 0.4, 0.05, 0.4), "r"),
        ("ellipse", (0.03, 0.25, 0.47, 0.6), "r"),
        ("polygon", (0.72, 0.3, 0.95, 0.75, 0.5, 0.75), "r"),
        ("ellipse", (0.48, 0.55, 0.97, 1.0), "r"),
    ),
    "barred person": (
        ("rectangle", (0.0, 0.0, 1.0, 1.0), "w"),
        ("ellipse", (0.37, 0.1, 0.63, 0.36), "k"),
        ("rectangle", (0.3, 0.38, 0.7, 0.92), "k"),
        ("line", (0.05, 0.05, 0.95, 0.95, 0.13), "r"),
    ),
    "black mask": (
        ("ellipse", (0.05, 0.2, 0.95, 0.85), "k"),
        ("ellipse", (0.2, 0.4, 0.42, 0.6), "w"),
        ("ellipse", (0.58, 0.4, 0.8, 0.6), "w"),
    ),
}
"""What makes an image itself risky: a sign of harm already under way beside the object."""
