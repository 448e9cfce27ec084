"""The words of the embedded world, by class."""

ANIMALS = ("cat", "dog", "fox", "bird", "horse", "frog", "mouse", "owl")
THINGS = ("ball", "hat", "box", "kite", "book", "boat", "bell", "cup", "lamp", "drum")
PLACES = ("park", "house", "river", "garden", "school", "market")
COLORS = ("red", "blue", "green", "black", "white", "yellow")
SIZES = ("big", "small", "tiny", "new")
QUALITIES = SIZES + COLORS
TOOK = ("saw", "found", "took", "lost", "wanted", "liked")
WENT = ("ran", "walked", "went", "jumped")
MOODS = {
    "happy": ("laughed", "smiled", "grinned"),
    "sad": ("cried", "sighed", "wept"),
    "angry": ("shouted", "growled", "stamped"),
}
FELT = tuple(verb for verbs in MOODS.values() for verb in verbs)
CATEGORIES = {
    "fruits": ("apple", "pear", "plum", "grape", "lemon", "melon"),
    "tools": ("hammer", "drill", "rope", "ladder", "nail", "brush"),
    "foods": ("bread", "soup", "cake", "rice", "cheese", "honey"),
    "animals": ANIMALS,
    "colors": COLORS,
}
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
