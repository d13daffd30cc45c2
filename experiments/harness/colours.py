"""The colours of every figure, for colour-blind eyes too."""

# Okabe and Ito (2008), "Color Universal Design", without black and yellow (too faint on white).
BLUE, ORANGE, GREEN, RED, PINK, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
GREY = "#6b6b6b"
# For a kind of layer that comes after the first six; two of them are Tol's (2021).
INDIGO, BROWN, PURPLE, BLACK, OLIVE = "#332288", "#8C5A00", "#7A3B69", "#1a1a1a", "#999933"
LIGHT = "#a8a8a8"  # of a band behind curves
