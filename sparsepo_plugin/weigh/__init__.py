"""``sparsepo weigh``: numbers for the tokens of a preference file, written as spans of characters.

``pairs_file`` reads and writes, ``placed`` finds tokens and where they stand in a row's response, ``scores``
has a class per kind of number, ``halves`` splits a file for cross-fitting, ``summary`` shows the result.
"""
