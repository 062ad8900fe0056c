"""Preference rows for every trainer: forms of data -> turns -> texts -> tokens, responses, counts.

``turns`` brings a row's columns into one form, ``texts`` renders them, ``tokens`` finds where the responses
begin and where they were cut, ``prepare`` does it for a data set, ``account`` says what became of its rows.
"""
