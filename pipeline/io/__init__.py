"""Bytes to domain types and back: FITS, Avro, cutouts, Kafka, the schema registry, Parquet."""
