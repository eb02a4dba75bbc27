mod built;
mod code;
mod hostile;
mod tables;
mod texts;
mod toolchain;
