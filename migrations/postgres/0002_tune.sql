-- Ids order as bytes whatever the locale of the database: lists page by them.
ALTER TABLE operations ALTER COLUMN id TYPE TEXT COLLATE "C";
ALTER TABLE audit ALTER COLUMN id TYPE TEXT COLLATE "C";

-- Rows that are rewritten all the time stay on their page.
ALTER TABLE event_counter SET (fillfactor = 20);
ALTER TABLE leases SET (fillfactor = 20);
ALTER TABLE statuses SET (fillfactor = 70);

-- The audit is added to, and what is old is removed: for everybody who speaks SQL, LIMEN among them.
CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- 30 days.
        IF OLD.created_at <= (EXTRACT(EPOCH FROM clock_timestamp())::BIGINT - 2592000) * 1000000 THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'a record of the audit stays for 30 days at least';
    END IF;
    RAISE EXCEPTION 'a record of the audit is never changed';
END
$$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_stays();
CREATE TRIGGER audit_stays_whole BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();
