-- The mail server's side of the milter protocol, for miltertest. Every reply is checked.
-- Unknown recipients and recipients in doubt both get SMFIR_REPLYCODE; the scenario with Sendmail checks
-- which code.

-- miltertest does not report which assertion failed.
local function demand(holds, text)
    if not holds then
        mt.echo(text)
        error(text)
    end
    return holds
end

local function say(what, trouble)
    demand(trouble == nil, string.format("%s: %s", what, trouble))
end

local function replied(conn, what, wanted)
    local got = mt.getreply(conn)
    local text = "%s: reply %q instead of %q"
    demand(got == wanted, text:format(what, string.char(got), string.char(wanted)))
end

local function recipients(conn)
    say("RCPT", mt.macro(conn, SMFIC_RCPT, "i", "4ABC", "{rcpt_addr}", "jane@example.org"))
    for _, rcpt in ipairs({
        "<jane@example.org>", "<Jane+Work@Example.ORG>", "<\"jane\"@example.org>", "<bob@example.net>",
        "<nobody@elsewhere.test>", "<jane>", "<>", "<100%@elsewhere.test>",
    }) do
        say(rcpt, mt.rcptto(conn, rcpt))
        replied(conn, rcpt, SMFIR_CONTINUE)
    end
    -- With ESMTP parameters.
    say("NOTIFY", mt.rcptto(conn, "<max@example.org>", "NOTIFY=NEVER", "ORCPT=rfc822;max@example.org"))
    replied(conn, "NOTIFY", SMFIR_CONTINUE)
    for _, rcpt in ipairs({"<nobody@example.org>", "<nobody+x@example.net>", "<100%s%n@example.org>"}) do
        say(rcpt, mt.rcptto(conn, rcpt))
        replied(conn, rcpt, SMFIR_REPLYCODE)
    end
    -- A refused recipient does not affect the next one.
    say("jane again", mt.rcptto(conn, "<jane@example.org>"))
    replied(conn, "jane again", SMFIR_CONTINUE)
end

-- All steps may be declined: the milter declines all but the connection and RCPT, and answers the end of the
-- message.
local conn = demand(mt.connect("local:/run/murder-route"), "no connection")
say("negotiate", mt.negotiate(conn, nil, nil, nil))
for name, step in pairs({
    helo = SMFIP_NOHELO, mail = SMFIP_NOMAIL, data = SMFIP_NODATA,
    headers = SMFIP_NOHDRS, eoh = SMFIP_NOEOH, body = SMFIP_NOBODY, unknown = SMFIP_NOUNKNOWN,
}) do
    demand(mt.test_option(conn, step), name .. " is not declined")
end
demand(not mt.test_option(conn, SMFIP_NORCPT), "RCPT is declined")
demand(not mt.test_option(conn, SMFIP_NOCONNECT), "the connection is declined")
say("connect", mt.conninfo(conn, "client.test", "192.0.2.1"))
replied(conn, "connect", SMFIR_CONTINUE)
for name, action in pairs({
    addhdrs = SMFIF_ADDHDRS, chghdrs = SMFIF_CHGHDRS, chgbody = SMFIF_CHGBODY, addrcpt = SMFIF_ADDRCPT,
    delrcpt = SMFIF_DELRCPT, quarantine = SMFIF_QUARANTINE, chgfrom = SMFIF_CHGFROM,
}) do
    demand(not mt.test_action(conn, action), name .. " is asked for")
end
recipients(conn)
say("eom", mt.eom(conn))
replied(conn, "eom", SMFIR_CONTINUE)
say("quit", mt.disconnect(conn))

-- No step may be declined: every command arrives, for two messages, the first of which is aborted.
conn = demand(mt.connect("local:/run/murder-route"), "no connection")
say("negotiate", mt.negotiate(conn, 2, 0, 0))
demand(not mt.test_option(conn, SMFIP_NOCONNECT), "a step is declined that may not be")
local function step(what, error)
    say(what, error)
    replied(conn, what, SMFIR_CONTINUE)
end
step("connect", mt.conninfo(conn, "client.test", "192.0.2.1"))
step("helo", mt.helo(conn, "client.test"))
for message = 1, 2 do
    step("mail", mt.mailfrom(conn, "<somebody@sender.test>", "SIZE=100"))
    recipients(conn)
    if message == 1 then
        say("abort", mt.abort(conn))
    end
end
step("header", mt.header(conn, "Subject", "100% <nobody@example.org>"))
step("header", mt.header(conn, "To", "nobody@example.org"))
step("eoh", mt.eoh(conn))
step("body", mt.bodystring(conn, "A message.\r\n"))
step("body", mt.bodyrandom(conn, 100000))
step("eom", mt.eom(conn))
say("quit", mt.disconnect(conn))

-- Version 6 has DATA and unknown commands.
conn = demand(mt.connect("local:/run/murder-route"), "no connection")
say("negotiate", mt.negotiate(conn, 6, 0, 0))
step("connect", mt.conninfo(conn, nil, "unspec"))
step("helo", mt.helo(conn, "client.test"))
step("unknown", mt.unknown(conn, "XYZZY 100%"))
step("mail", mt.mailfrom(conn, "<>"))
recipients(conn)
step("data", mt.data(conn))
step("header", mt.header(conn, "Subject", "x"))
step("eoh", mt.eoh(conn))
step("body", mt.bodystring(conn, "A message.\r\n"))
step("eom", mt.eom(conn))
-- Without QUIT.
mt.disconnect(conn, false)

mt.echo("every reply was right")
