"""Credit default at four banks. Imports nothing heavy, so mistakes are told at once."""

FILE = "UCI_Credit_Card.csv"
BANKS = ("graduate-bank", "university-bank", "high-school-bank", "other-bank")
WHERE = (
    'get the data set "Default of Credit Card Clients" from the UCI Machine Learning Repository as'
    f" CSV with its header, and name the folder with the file {FILE}"
)
