"""Stage 2: the student samples, the teacher answers, two losses are balanced."""
