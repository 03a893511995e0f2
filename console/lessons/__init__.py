"""The course's day as lessons: predict, do, see, understand. Data files, what may stand in them, and the pure runner."""
