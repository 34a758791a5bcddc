//! What a guest finds where: the one place that says so.
