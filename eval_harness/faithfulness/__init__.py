"""The faithfulness suite: are summaries still true to their documents?"""
