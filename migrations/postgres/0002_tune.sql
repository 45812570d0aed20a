-- Ids order as bytes whatever the locale of the database: lists page by them.
ALTER TABLE operations ALTER COLUMN id TYPE TEXT COLLATE "C";
ALTER TABLE audit ALTER COLUMN id TYPE TEXT COLLATE "C";

-- Rows that are rewritten all the time stay on their page.
ALTER TABLE event_counter SET (fillfactor = 20);
ALTER TABLE leases SET (fillfactor = 20);
ALTER TABLE statuses SET (fillfactor = 70);
