"""Heart disease at four real hospitals. Imports nothing heavy, so mistakes are told at once."""

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
WHERE = (
    "get the data set 'Heart Disease' from the UCI Machine Learning Repository and name the folder"
    " with its four files processed.*.data"
)
