"""Models as plain functions over the contract's ops: config -> ModelSpec -> weight names -> forward."""
