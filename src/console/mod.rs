//! Where the serial port's bytes go to and come from.
