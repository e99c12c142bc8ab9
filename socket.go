package herald

const maxFrameHeader = 10 // of a server, which does not mask (RFC 6455 section 5.2)
