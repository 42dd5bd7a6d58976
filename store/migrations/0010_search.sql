-- The search index of an account, in sealed parts; segment 0 is its head.
CREATE TABLE search_parts (
	account     {{int}}  NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	part        {{int}}  NOT NULL,
	segment     {{int}}  NOT NULL,
	sealed_data {{blob}} NOT NULL,
	PRIMARY KEY (account, part, segment)
){{strict}};
