"""Fashion-MNIST on a hundred phones. Imports nothing heavy, so mistakes are told at once."""

PHONES = 100
FILES = tuple(
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
WHERE = "get the data set Fashion-MNIST and name the folder with its four .gz files"
