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
# Darker and lighter neighbours of these, for a kind of layer that comes after the first six.
NAVY, BROWN, PURPLE, BLACK, LIGHT = "#003A5D", "#8C5A00", "#7A3B69", "#1a1a1a", "#a8a8a8"
