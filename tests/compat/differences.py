"""
What differs from sse-starlette 3.7.0 on purpose: the test that shows it, and the reason.

On 3.7.0 each of these tests has to fail, and all others have to pass. `docs/migrating.md` gives the same reasons.
"""

from __future__ import annotations

DIFFERENCES = {
    "test_a_record_given_as_data_is_json": (
        "No client can read a `repr`, and it was the most frequent complaint; text and numbers are what they were."
    ),
    "test_a_list_given_as_data_is_json": (
        "No client can read a `repr`, and it was the most frequent complaint; text and numbers are what they were."
    ),
    "test_a_json_event_takes_records": (
        "What is JSON in `ServerSentEvent` has to be JSON in the class that is named after it."
    ),
    "test_an_enum_given_as_data_is_its_value": (
        "The name of a Python class means nothing to a client, and FastAPI and pydantic send the value."
    ),
    "test_dates_and_durations_are_iso_8601": (
        "JavaScript's `Date` is only bound to read ISO 8601, and the same value should not have two forms."
    ),
    "test_bytes_given_as_data_are_text": (
        "The quotes and the `b` are Python's, and reached clients as part of the data."
    ),
    "test_a_bytearray_is_sent_as_it_is": (
        "The quotes and the `b` are Python's, and reached clients as part of the data."
    ),
    "test_an_object_without_a_text_of_its_own_is_refused": (
        "It can't be what a client was meant to get, it differs with each run, and it shows addresses of the process to strangers."
    ),
    "test_ids_and_event_names_may_be_more_than_text": (
        "Rows of a database have numbers for ids, and an error under way helps nobody."
    ),
    "test_nul_in_an_id_is_deleted": (
        "A browser ignores an id with NUL in it, so that it would resume from the wrong place."
    ),
    "test_half_a_pair_of_surrogates_does_not_end_a_stream": (
        "One bad character of somebody else's text must not take away the rest, and browsers replace it likewise."
    ),
    "test_a_retry_that_clients_ignore_is_refused": (
        "Clients ignore a retry that isn't digits, so whoever gave one believes that something was changed."
    ),
    "test_a_whole_stream_has_one_line_end": (
        "A stream has one line end, or simple readers that split at it find two events where there is one."
    ),
    "test_a_sep_that_ends_no_line_is_refused": (
        "Clients know CR LF, LF and CR, and would take all that follows for one line."
    ),
    "test_it_is_a_streaming_response": (
        "Middleware and type checkers know a stream by that class, and FastAPI reads the content type for OpenAPI from the class."
    ),
    "test_the_media_type_is_one_of_the_class": (
        "Middleware and type checkers know a stream by that class, and FastAPI reads the content type for OpenAPI from the class."
    ),
    "test_openapi_tells_the_content_type": (
        "Middleware and type checkers know a stream by that class, and FastAPI reads the content type for OpenAPI from the class."
    ),
    "test_the_connection_header_is_left_to_the_server": (
        "It belongs to the server: HTTP/2 forbids it, a WSGI bridge answers 500 for it, and clients that asked for `close` got both."
    ),
    "test_headers_that_cannot_be_true_of_a_stream_are_left_out": (
        "They can't be true of a stream: with a length that an upstream had, the body breaks at the first ping."
    ),
    "test_a_status_without_a_body_is_refused": (
        "Such a response has no body (RFC 9110), so servers broke it off at the first event."
    ),
    "test_what_is_no_source_is_refused_in_the_call": (
        "3.7.0 answered 200 with an empty body or single letters, which browsers ask for again every few seconds."
    ),
    "test_a_used_up_generator_is_refused": (
        "It's a source that was made once for many requests, and all but the first got an empty stream in silence."
    ),
    "test_no_media_type_is_the_usual_one": (
        "No client takes a body of an unknown type for an event stream."
    ),
    "test_arguments_that_no_server_can_use_are_refused": (
        "Each stream then ended at its first event, or what became of it was up to the server."
    ),
    "test_true_is_no_number_of_seconds": (
        "Whoever writes it means the usual ping, which is what leaving it out gives."
    ),
    "test_the_body_is_completed_after_an_error": (
        "Without it a client can't tell a stream that ended from a connection that broke, and HTTP clients raise an error of their own."
    ),
    "test_the_body_is_completed_at_a_shutdown": (
        "Without it a client can't tell a stream that ended from a connection that broke, and HTTP clients raise an error of their own."
    ),
    "test_the_body_that_a_real_server_stops_is_complete": (
        "Without it a client can't tell a stream that ended from a connection that broke, and HTTP clients raise an error of their own."
    ),
    "test_a_connection_that_the_server_reports_broken_is_no_error": (
        "Clients leave all day long; the close handler and `background` run then as in any leaving."
    ),
    "test_a_memory_stream_is_closed_at_the_end": (
        "What nobody closes keeps its connection to the database or to the language model."
    ),
    "test_head_closes_the_source": (
        "What nobody closes keeps its connection to the database or to the language model."
    ),
    "test_the_close_handler_runs_when_the_source_has_been_closed": (
        "A handler that frees what the source still uses in its `finally` was a race."
    ),
    "test_a_plain_function_may_handle_the_close": (
        "A handler that frees what the source still uses in its `finally` was a race."
    ),
    "test_a_close_handler_that_raises_is_logged": (
        "The response has been sent: nobody above can answer any more, and an error in one of them kept the other from running."
    ),
    "test_an_error_of_background_is_logged": (
        "The response has been sent: nobody above can answer any more, and an error in one of them kept the other from running."
    ),
    "test_an_exception_group_of_one_stays_one": (
        "3.7.0 took it apart, so that `except*` around the source and around the response saw different things."
    ),
    "test_importing_leaves_uvicorn_as_it_is": (
        "An import that changes another library breaks those who change it too; servers are asked in their own ways, and uvicorn isn't the only one."
    ),
}
