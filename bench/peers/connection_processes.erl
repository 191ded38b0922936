%% SPDX-License-Identifier: MIT
%%
%% connection_processes.erl: an Erlang process per connection. It blocks in
%% recv and send, on the client's socket and on its own upstream connection,
%% and the runtime turns each wait into a switch.
%% Run: bench/peers/connection_processes --listen HOST:PORT --upstream URL
%% [--no-keepalive]
%% Keep in your head: processes share nothing. One ends without the others, and
%% what it has opened is closed, whatever the end was. HTTP is in here because
%% OTP's client, httpc, takes all requests through one process, and by default
%% queues them on the connections that it keeps.
-module(connection_processes).
-export([start/0]).

-define(MAX_LINE, 65536). % bytes, without CR and LF
-define(MAX_BODY, 1048576). % bytes of an upstream's answer
-define(MAX_HEAD_LINE, 65536). % bytes of a line of its head
-define(MAX_FIELDS, 1000). % lines of its head and of its trailer
-define(TIMEOUT, 10000). % ms for one fetch, and for one reply
-define(SOCKET, [binary, {active, false}, {nodelay, true},
                 {send_timeout, ?TIMEOUT}, {send_timeout_close, true}]).

-record(upstream, {host, port, before, 'after', keepalive}).
-record(response, {status, length = none, chunked = false, keep}).
-record(input, {socket, deadline}).

%% Called by the runtime at its start, see the script.
start() ->
    Options = options(init:get_plain_arguments(), #{}),
    {Host, Port} = address(maps:get(listen, Options, "127.0.0.1:8080")),
    Url = maps:get(upstream, Options, "http://127.0.0.1:8081/arrpi.php"),
    Upstream = upstream(Url, not maps:is_key(no_keepalive, Options)),
    spawn(fun() -> listen(Host, Port, Upstream) end).

options(["--listen", Value | Rest], Options) ->
    options(Rest, Options#{listen => Value});
options(["--upstream", Value | Rest], Options) ->
    options(Rest, Options#{upstream => Value});
options(["--no-keepalive" | Rest], Options) ->
    options(Rest, Options#{no_keepalive => true});
options([], Options) ->
    Options;
options([Word | _], _) ->
    fail("no such option: ~ts", [Word]).

fail(Format, Arguments) ->
    complain(Format, Arguments),
    halt(1).

complain(Format, Arguments) ->
    io:format(standard_error, "connection_processes: " ++ Format ++ "~n",
              Arguments).

address(Text) ->
    #{host := Host, port := Port} = uri_string:parse("tcp://" ++ Text),
    {ip(Host), Port}.

%% An address, or the name as it is.
ip(Host) ->
    case inet:parse_address(string:trim(Host, both, "[]")) of
        {ok, Address} -> Address;
        {error, einval} -> Host
    end.

%% What all fetches have in common.
upstream(Url, Keepalive) ->
    Parts = #{host := Host} = uri_string:parse(Url),
    Question = case Parts of
                   #{query := Query} -> ["?", Query, "&text="];
                   #{} -> "?text="
               end,
    Path = case maps:get(path, Parts) of
               "" -> "/";
               Given -> Given
           end,
    Port = maps:get(port, Parts, 80),
    Close = case Keepalive of
                true -> "";
                false -> "Connection: close\r\n"
            end,
    #upstream{host = ip(Host), port = Port, keepalive = Keepalive,
              before = iolist_to_binary(["GET ", Path, Question]),
              'after' = iolist_to_binary(
                          [" HTTP/1.1\r\nHost: ", Host, ":",
                           integer_to_list(Port), "\r\n", Close, "\r\n"])}.

%% The listener belongs to this process, which therefore stays.
listen(Host, Port, Upstream) ->
    Options = [{ip, Host}, {backlog, 4096}, {reuseaddr, true},
               {exit_on_close, false} | ?SOCKET],
    case gen_tcp:listen(Port, Options) of
        {ok, Listener} ->
            {ok, {Ip, Bound}} = inet:sockname(Listener),
            complain("listening on ~s", [name(Ip, Bound)]),
            accept(Listener, Upstream),
            timer:sleep(infinity);
        {error, Reason} ->
            fail("cannot listen: ~s", [inet:format_error(Reason)])
    end.

name(Ip, Port) when tuple_size(Ip) =:= 8 ->
    io_lib:format("[~s]:~b", [inet:ntoa(Ip), Port]);
name(Ip, Port) ->
    io_lib:format("~s:~b", [inet:ntoa(Ip), Port]).

%% Accepts one client and serves it. The next client has a process of its own.
accept(Listener, Upstream) ->
    spawn(fun() ->
        case gen_tcp:accept(Listener) of
            {ok, Client} ->
                accept(Listener, Upstream),
                serve_connection(Client, <<>>, none, Upstream);
            {error, Reason} ->
                complain("~s", [inet:format_error(Reason)]),
                timer:sleep(100), % out of descriptors: wait for one
                accept(Listener, Upstream)
        end
    end).

%% Reads a line, fetches, writes, until the client has no more. Buffer is what
%% has been read, Kept the connection to the upstream or none.
serve_connection(Client, Buffer, Kept, Upstream) ->
    case read_line(Client, Buffer) of
        {ok, Line, Rest} ->
            case fetch(Line, Kept, Upstream) of
                {ok, Body, Socket} -> Reply = echo(Body);
                {error, Reason, Socket} -> Reply = error_reply(Reason)
            end,
            reply(Client, Reply, Rest, Socket, Upstream);
        {too_long, Rest} ->
            Reply = error_reply("line too long"),
            reply(Client, Reply, Rest, Kept, Upstream);
        closed ->
            ok
    end.

reply(Client, Reply, Rest, Kept, Upstream) ->
    case gen_tcp:send(Client, Reply) of
        ok -> serve_connection(Client, Rest, Kept, Upstream);
        {error, _} -> ok % the client has gone
    end.

%% OTP could cut the lines ({packet, line}), but drops one without LF.
read_line(Client, Buffer) ->
    case binary:split(Buffer, <<"\n">>) of
        [Line, Rest] ->
            checked(chomp(Line), Rest);
        [Part] when byte_size(Part) > ?MAX_LINE + 1 ->
            skip_line(Client);
        [Part] ->
            case gen_tcp:recv(Client, 0) of
                {ok, Data} ->
                    read_line(Client, <<Part/binary, Data/binary>>);
                {error, _} when Part =:= <<>> ->
                    closed;
                {error, _} ->
                    checked(Part, <<>>)
            end
    end.

checked(Line, Rest) when byte_size(Line) > ?MAX_LINE -> {too_long, Rest};
checked(Line, Rest) -> {ok, Line, Rest}.

chomp(Line) ->
    Length = byte_size(Line) - 1,
    case Line of
        <<Text:Length/binary, "\r">> -> Text;
        _ -> Line
    end.

skip_line(Client) ->
    case gen_tcp:recv(Client, 0) of
        {ok, Data} ->
            case binary:split(Data, <<"\n">>) of
                [_, Rest] -> {too_long, Rest};
                [_] -> skip_line(Client)
            end;
        {error, _} ->
            {too_long, <<>>}
    end.

%% A line break at the end leaves nothing, any other run of them a space.
echo(Body) ->
    [First | Rest] = binary:split(Body, [<<"\r">>, <<"\n">>], [global]),
    ["echo: ", First, [[$\s, Part] || Part <- Rest, Part =/= <<>>], $\n].

error_reply(unanswered) ->
    error_reply("upstream closed early");
error_reply(Reason) ->
    ["error: ", Reason, $\n].

%% Fetches URL?text=LINE. Returns the connection too, or none.
fetch(Line, Kept, Upstream) ->
    #upstream{before = Before, 'after' = After} = Upstream,
    Request = [Before, [escaped(Byte) || <<Byte>> <= Line], After],
    ask(Request, Kept, Upstream, now_ms() + ?TIMEOUT).

escaped(Byte) when Byte >= $a, Byte =< $z; Byte >= $A, Byte =< $Z;
                   Byte >= $0, Byte =< $9; Byte =:= $-; Byte =:= $.;
                   Byte =:= $_; Byte =:= $~ ->
    Byte;
escaped(Byte) ->
    [$%, binary:encode_hex(<<Byte>>)].

ask(Request, none, Upstream, Deadline) ->
    #upstream{host = Host, port = Port} = Upstream,
    Left = max(0, Deadline - now_ms()),
    case gen_tcp:connect(Host, Port, ?SOCKET, Left) of
        {ok, Socket} -> exchange(Request, Socket, Upstream, Deadline);
        {error, Reason} -> {error, why(Reason), none}
    end;
ask(Request, Kept, Upstream, Deadline) ->
    case exchange(Request, Kept, Upstream, Deadline) of
        {error, unanswered, none} -> % it may have been closed before
            ask(Request, none, Upstream, Deadline);
        Outcome ->
            Outcome
    end.

why(econnrefused) -> "upstream refused";
why(eaddrnotavail) -> "no local port left";
why(nxdomain) -> "upstream not found";
why(timeout) -> "upstream timed out";
why(etimedout) -> "upstream timed out";
why(_) -> "upstream failed".

%% Sends the request and reads the response. Whatever is wrong with it is
%% thrown, and ends the connection.
exchange(Request, Socket, #upstream{keepalive = Keepalive}, Deadline) ->
    Input = #input{socket = Socket, deadline = Deadline},
    try
        gen_tcp:send(Socket, Request) =:= ok orelse throw(unanswered),
        Start = more(Input, <<>>, unanswered),
        {Response, Buffer} = read_head(Input, Start, ?MAX_FIELDS),
        {Body, Rest} = read_body(Response, Input, Buffer),
        case Keepalive andalso Response#response.keep andalso Rest =:= <<>> of
            true ->
                {ok, Body, Socket};
            false ->
                gen_tcp:close(Socket),
                {ok, Body, none}
        end
    catch
        throw:Reason ->
            gen_tcp:close(Socket),
            {error, Reason, none}
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).

%% Reads what there is and appends it. At the end of the input it throws AtEnd.
more(#input{socket = Socket, deadline = Deadline}, Buffer, AtEnd) ->
    Left = Deadline - now_ms(),
    case gen_tcp:recv(Socket, 0, max(0, Left)) of
        {ok, Data} when Left > 0 -> <<Buffer/binary, Data/binary>>;
        {ok, _} -> throw("upstream timed out");
        {error, timeout} -> throw("upstream timed out");
        {error, _} -> throw(AtEnd)
    end.

more(Input, Buffer) ->
    more(Input, Buffer, "upstream closed early").

%% Takes one packet from the buffer, as the runtime's parsers see it.
packet(Type, Input, Buffer) ->
    case erlang:decode_packet(Type, Buffer, []) of
        {ok, Packet, Rest} ->
            {Packet, Rest};
        {more, _} when byte_size(Buffer) =< ?MAX_HEAD_LINE ->
            packet(Type, Input, more(Input, Buffer));
        _ ->
            throw("upstream sent bad HTTP")
    end.

read_head(Input, Buffer, Left) ->
    case packet(http_bin, Input, Buffer) of
        {{http_response, Version, Status, _}, Rest} ->
            Response = #response{status = Status, keep = Version >= {1, 1}},
            read_fields(Response, Input, Rest, Left);
        _ ->
            throw("upstream sent bad HTTP")
    end.

%% Reads header fields. Left is how many may still come.
read_fields(_, _, _, 0) ->
    throw("upstream sent bad HTTP");
read_fields(Response, Input, Buffer, Left) ->
    case packet(httph_bin, Input, Buffer) of
        {{http_header, _, Name, _, Value}, Rest} ->
            read_fields(field(Name, Value, Response), Input, Rest, Left - 1);
        {http_eoh, Rest} when Response#response.status div 100 =:= 1 ->
            read_head(Input, Rest, Left - 1); % an interim response
        {http_eoh, Rest} ->
            {Response, Rest};
        _ ->
            throw("upstream sent bad HTTP")
    end.

field('Content-Length', Value, Response) ->
    Response#response{length = number(Value, 10)};
field('Transfer-Encoding', Value, Response) ->
    string:equal(Value, "chunked", true) orelse
        throw("upstream sent bad HTTP"),
    Response#response{chunked = true};
field('Connection', Value, Response) ->
    Keep = not string:equal(Value, "close", true),
    Response#response{keep = Response#response.keep andalso Keep};
field(_, _, Response) ->
    Response.

number(Digits, Base) ->
    try binary_to_integer(Digits, Base) of
        Number when Number >= 0 -> Number;
        _ -> throw("upstream sent bad HTTP")
    catch
        error:badarg -> throw("upstream sent bad HTTP")
    end.

%% Returns the body, and what came after it.
read_body(#response{status = Status}, _, _)
  when Status < 200; Status > 299 ->
    throw(["upstream returned ", integer_to_list(Status)]);
read_body(#response{status = 204}, _, Buffer) ->
    {<<>>, Buffer};
read_body(Response = #response{chunked = true}, Input, Buffer) ->
    read_chunks(Response, Input, Buffer, <<>>);
read_body(#response{length = none}, Input, Buffer) ->
    read_to_end(Input, Buffer);
read_body(#response{length = Length}, Input, Buffer) ->
    read_exactly(Length, Input, Buffer).

read_exactly(Length, _, _) when Length > ?MAX_BODY ->
    throw("upstream body too large");
read_exactly(Length, Input, Buffer) ->
    case Buffer of
        <<Data:Length/binary, Rest/binary>> -> {Data, Rest};
        _ -> read_exactly(Length, Input, more(Input, Buffer))
    end.

read_chunks(_, _, _, Body) when byte_size(Body) > ?MAX_BODY ->
    throw("upstream body too large");
read_chunks(Response, Input, Buffer, Body) ->
    {Line, Rest} = packet(line, Input, Buffer),
    [Digits | _] = binary:split(Line, [<<";">>, <<"\r">>, <<"\n">>]),
    case number(Digits, 16) of
        0 ->
            {_, After} = read_fields(Response, Input, Rest, ?MAX_FIELDS),
            {Body, After};
        Size ->
            {Chunk, More} = read_exactly(Size, Input, Rest),
            {Break, Next} = read_exactly(2, Input, More),
            Break =:= <<"\r\n">> orelse throw("upstream sent bad HTTP"),
            read_chunks(Response, Input, Next, <<Body/binary, Chunk/binary>>)
    end.

read_to_end(_, Buffer) when byte_size(Buffer) > ?MAX_BODY ->
    throw("upstream body too large");
read_to_end(Input, Buffer) ->
    try more(Input, Buffer, the_end) of
        Longer -> read_to_end(Input, Longer)
    catch
        throw:the_end -> {Buffer, <<>>}
    end.
