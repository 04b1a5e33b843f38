"""What stage 1 shows its users, made of the files it wrote and nothing else.

`section` is its part of every report, `page` the report of `refine` alone, `explain` one row's story
on the terminal, `card` the dataset card.
"""
