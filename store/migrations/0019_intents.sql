-- What must not be done twice and was given to the homeserver, until some time after it was done (see
-- intents_table.go): what the request was, and what there was before it, sealed.
CREATE TABLE intents (
    account       {{int}} NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    request       {{text}} NOT NULL,
    made_at       {{int}} NOT NULL,
    sealed_intent {{blob}} NOT NULL,
    PRIMARY KEY (account, request)
){{strict}};
CREATE INDEX intents_made_at ON intents (made_at);
