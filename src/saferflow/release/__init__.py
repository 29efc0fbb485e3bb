"""Who may lead: registered versions, the verdict on them, their ledger, signatures and cards."""
