"""Kafka's wire protocol as pure functions and state: frames in, messages out, and back. No I/O, no clock.

    apis.py      which APIs and versions there are: the one table
    framing.py   a stream of bytes -> requests with their headers; the head of a response
    schema.py    what a message looks like in one version, read from kio's schemas
    messages.py  one class per message, the same for all its versions
    reader.py    compiles a checked decoder for one version
    writer.py    compiles an encoder for one version
    codec.py     the compiled readers and writers, made on first use

A server reads `framing.RequestFramer.next_request()`, decodes with `codec.read_request`, and answers with
`codec.write_response`. A message's classes are found with `codec.request_types` and `codec.response_types`.
"""
