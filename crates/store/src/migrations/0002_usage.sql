-- When and from where what a caller proves itself with was used last: secrets, and entries of access lists.
CREATE TABLE "usage" (principal TEXT NOT NULL, entry TEXT NOT NULL, requests BIGINT NOT NULL, last_at BIGINT NOT NULL, last_address TEXT NOT NULL, PRIMARY KEY (principal, entry));
