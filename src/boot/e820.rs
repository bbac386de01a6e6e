//! The guest's memory map.
