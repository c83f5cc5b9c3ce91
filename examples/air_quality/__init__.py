"""Air quality at twelve stations in Beijing. Imports nothing heavy."""

STATIONS = (
    *("Aotizhongxin", "Changping", "Dingling", "Dongsi", "Guanyuan", "Gucheng"),
    *("Huairou", "Nongzhanguan", "Shunyi", "Tiantan", "Wanliu", "Wanshouxigong"),
)
FILES = tuple(f"PRSA_Data_{name}_20130301-20170228.csv.gz" for name in STATIONS)
WHERE = (
    'get the data set "Beijing Multi-Site Air Quality" from the UCI Machine Learning Repository and'
    " name the folder with its twelve files, each compressed with gzip"
)
