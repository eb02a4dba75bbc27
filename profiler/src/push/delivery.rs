//! A batch until every line of it is stored or set aside.
