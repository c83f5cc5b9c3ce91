{{/* Never in a pod's template: what changes with a release or with the chart would restart it. */}}
{{- define "warren.labels" -}}
app.kubernetes.io/part-of: warren
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* A pod's security context; the argument is the user's number. */}}
{{- define "warren.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "warren.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{/* The argument is the age, in minutes, from which a sign of life counts as none. */}}
{{- define "warren.probes" -}}
# Until it has connected once: imports and a broker that comes later take their time.
startupProbe:
  exec:
    command: ["test", "-f", "/tmp/warren.ready"]
  periodSeconds: 5
  failureThreshold: 60
readinessProbe:
  exec:
    command: ["test", "-f", "/tmp/warren.ready"]
  periodSeconds: 5
# Not there while the broker is away, which a restart would not fix. There and old: it hangs.
livenessProbe:
  exec:
    command: ["sh", "-c", "test -z \"$(find /tmp/warren.ready -mmin +{{ . }} 2>/dev/null)\""]
  periodSeconds: 30
  timeoutSeconds: 10
{{- end }}

{{/* Pods of one kind on different nodes, if there are any; the argument is the value of their name's label. */}}
{{- define "warren.apart" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/name: {{ . }}
{{- end }}

{{/* "true" if nothing listens without TLS. */}}
{{- define "warren.tlsOnly" -}}
{{- if and .Values.broker.tls.secretName (not .Values.broker.tls.plainToo) }}true{{ end }}
{{- end }}
