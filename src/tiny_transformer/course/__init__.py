"""The exercise engine of the course: what is to be written, and how it is graded."""
