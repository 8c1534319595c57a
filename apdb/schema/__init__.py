"""One definition of every table, from which SQL, Avro, numpy and Parquet forms come."""
