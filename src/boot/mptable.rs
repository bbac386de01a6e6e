//! MP table (MultiProcessor Specification 1.4).
