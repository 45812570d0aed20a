-- The audit is added to, and what is old is removed: for everybody who speaks SQL, LIMEN among them.
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'a record of the audit is never changed');
END;
-- 30 days.
CREATE TRIGGER audit_stays_a_while BEFORE DELETE ON audit
WHEN OLD.created_at > (CAST(strftime('%s', 'now') AS INTEGER) - 2592000) * 1000000
BEGIN
    SELECT RAISE(ABORT, 'a record of the audit stays for 30 days at least');
END;
