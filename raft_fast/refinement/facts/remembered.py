"""What was found in a text is kept for the next one who asks: checks read the same texts many times over."""

from functools import lru_cache

# about as many texts as the gold answers and questions that stage 1 has under way at once
remembered = lru_cache(maxsize=1 << 13)
