"""The alert-production database: schema, ids, store, outbox and ledger."""
